"""From a source model to a package that fits the device. Imported as `edgeai.converters`.

``toolchain.convert`` makes a package and proves it, ``search.search`` looks for the best one. Below them
``convert.convert`` installs an ONNX package in the store, ``convert.export`` writes one to a folder. The
contract between the graph and the engine that runs it is in `edgeai.converters.graph`.
An ONNX package's files:

- ``model.onnx`` and ``model.onnx.data``: the graph and the weights
- ``tokenizer.json``, and ``chat_template.jinja`` if the model has one
- ``tokenizer_config.json``: ``add_bos_token``, ``bos_token``, ``eos_token``
- ``generation_config.json``: ``bos_token_id``, ``eos_token_id`` (all ids that end a text)
- ``conversion.json``: what packing did to the weights, as numbers

To encode text in which control tokens are not to be read as such, set ``encode_special_tokens`` on the
`tokenizers.Tokenizer`.
"""

if __name__ != "edgeai.converters":
    raise ImportError("import this package as `edgeai.converters`")
