"""Reading calibration data: what is there, and what is refused with its line."""

import json
from pathlib import Path

import pytest

from edgeai.calibrate.data import read_data
from edgeai.calibrate.task import Task, read_examples
from edgeai.errors import ConfigError
from edgeai.types import Message


def test_jsonl_and_csv_say_the_same(tmp_path: Path) -> None:
    """Both forms give the same rows, choices and task."""
    lines = tmp_path / "a.jsonl"
    lines.write_text(
        '{"prompt": "Hi, \\"you\\"", "reference": "x", "choices": ["x", "y"], "task": "t"}\n\n'
        '{"prompt": "Ho\u2028ho", "reference": "y", "choices": ["x", "y"], "task": "t"}\n'
    )
    table = tmp_path / "a.csv"
    table.write_text('prompt,reference,choices,task\n"Hi, ""you""",x,x|y,t\nHo\u2028ho,y,"[""x"",""y""]",t\n')
    first, second = read_data(lines), read_data(table)
    assert [(row.prompt, row.reference) for row in first.rows] == [('Hi, "you"', "x"), ("Ho\u2028ho", "y")]
    assert [(row.prompt, row.reference) for row in second.rows] == [('Hi, "you"', "x"), ("Ho\u2028ho", "y")]
    assert (first.choices, first.task) == (second.choices, second.task) == (("x", "y"), "t")
    assert first.labelled
    assert [row.line for row in first.rows] == [1, 3]


def test_duplicates_are_counted_and_left_out(tmp_path: Path) -> None:
    """The first of equal prompts remains; white space does not make a prompt another one."""
    path = tmp_path / "a.jsonl"
    rows = [("a b", "x"), ("a  b", "x"), ("a b ", "y"), ("c", "z")]
    path.write_text(
        "".join(json.dumps({"prompt": p, "reference": r, "choices": ["x", "y"]}) + "\n" for p, r in rows)
    )
    data = read_data(path)
    assert (len(data.rows), data.duplicates, data.conflicts, data.strangers) == (2, 2, 1, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a"}\nnonsense\n', "line 2 is not JSON"),
        ('{"prompt": "a"}\n["b"]\n', "line 2 is no object"),
        ('{"prompt": "  "}\n', "line 1 has no prompt"),
        ('{"prompt": "a", "referense": "b"}\n', "Did you mean 'reference'?"),
        ('{"prompt": "a"}\n{"prompt": "b", "reference": "x"}\n', "line 2 differs from the first"),
        ('{"prompt": "a", "choices": ["x"]}\n', "line 1 has a choices that is"),
        ('{"prompt": "a", "choices": ["x", "x"]}\n', "two or more different texts"),
        ('{"prompt": "a", "reference": []}\n', "line 1 has a reference that is []"),
        ('{"prompt": "a", "schema": "x"}\n', "a JSON schema, which is an object"),
        ('{"prompt": "a", "task": "s"}\n{"prompt": "b", "task": "t"}\n', "line 2 has another task than"),
        ('{"prompt": "\\ud800"}\n', "not valid Unicode"),
        ("\n", "has no rows"),
    ],
)  # fmt: skip
def test_bad_lines_are_named(tmp_path: Path, text: str, said: str) -> None:
    """An error names the line and what is wrong with it, before any work."""
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_data(path)
    assert said in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt,reference\na\n", "line 2 has another number of cells"),
        ("prompt,schema\na,{\n", "line 2 has schema that are not JSON"),
        ('prompt\n"a\n', "is not CSV"),
        ("question\na\n", "unknown field 'question'"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, said: str) -> None:
    """The same holds for CSV."""
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_data(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """No such file, no text, another kind."""
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe")
    for name in ("none.jsonl", "bytes.csv", "data.txt"):
        with pytest.raises(ConfigError, match=name):
            read_data(tmp_path / name)


def test_a_task_takes_what_the_data_give(tmp_path: Path) -> None:
    """Choices come from either side, and from both only when they are the same."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "choices": ["x", "y"], "task": "t"}\n')
    data = read_data(path)
    assert Task(method="choose").with_data(data).choices == ("x", "y")
    assert Task(method="choose", choices=("x", "y")).with_data(data).name == "t"
    with pytest.raises(ConfigError, match="another choices"):
        Task(method="choose", choices=("x", "z")).with_data(data)
    with pytest.raises(ConfigError, match="ask takes no choices"):
        Task(method="ask").with_data(data)
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(ConfigError, match="choose needs choices"):
        Task(method="choose").with_data(read_data(path))
    with pytest.raises(ConfigError, match="extract needs a schema"):
        Task(method="extract").with_data(read_data(path))


def test_examples(tmp_path: Path) -> None:
    """Both forms are read; for `ask` they become exchanges before the question."""
    path = tmp_path / "few.jsonl"
    path.write_text('{"text": "1+1", "label": "2"}\n["2+2", "4"]\n')
    few = read_examples(path)
    assert few == (("1+1", "2"), ("2+2", "4"))
    task = Task(system="Add.", examples=few)
    prompt = task.prompt("3+3")
    assert isinstance(prompt[0], Message)
    assert [turn.text for turn in prompt if isinstance(turn, Message)] == [
        "Add.",
        "1+1",
        "2",
        "2+2",
        "4",
        "3+3",
    ]
    assert Task().prompt("3+3") == "3+3"
    path.write_text('["a"]\n')
    with pytest.raises(ConfigError, match="line 1 is no example"):
        read_examples(path)
