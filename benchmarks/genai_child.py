"""The other side of `benchmarks.genai`, run by a Python that has onnxruntime-genai and its model builder.

``build GGUF TOKENIZER FOLDER`` makes the graph, ``serve FOLDER THREADS`` measures what it is asked on stdin:
a line of JSON ``{"what": "decode" | "prefill", "ids": […], "n": 128}``, answered by a figure in tokens/s.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

BUILDER = ("-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu")


def build(gguf: Path, tokenizer: Path, folder: Path) -> None:
    """The weights of the GGUF file as Hugging Face writes them, and from those the builder's int4 graph."""
    from transformers import AutoModelForCausalLM

    source, cache = folder / "source", folder / "cache"
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    model = type(read)(read.config)  # the same weights in a model that knows nothing of GGUF, to be saved
    model.load_state_dict(read.state_dict())
    model.save_pretrained(source)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, source)
    if not (source / "tokenizer_config.json").is_file():
        (source / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    places = ("-i", str(source), "-o", str(folder / "made"), "-c", str(cache))
    command = [sys.executable, *BUILDER, *places]
    subprocess.run(command, check=True, stdout=sys.stderr)


def serve(folder: Path, n_threads: int) -> None:
    """Measure until stdin ends."""
    import onnxruntime_genai as og

    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = n_threads
    (folder / "genai_config.json").write_text(json.dumps(config))
    model = og.Model(str(folder))
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        params = og.GeneratorParams(model)
        length = len(asked["ids"]) + asked["n"]
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(model, params)
        started = time.perf_counter()
        generator.append_tokens(asked["ids"])
        generator.generate_next_token()
        first = time.perf_counter()
        made = 1
        while not generator.is_done() and made < asked["n"]:
            generator.generate_next_token()
            made += 1
        decode = (made - 1) / (time.perf_counter() - first) if made > 1 else 0.0
        figures = {"decode": decode, "prefill": len(asked["ids"]) / (first - started)}
        print(json.dumps(figures[asked["what"]]), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build(*map(Path, sys.argv[2:5]))
    else:
        serve(Path(sys.argv[2]), int(sys.argv[3]))
