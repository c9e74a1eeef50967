from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodel.yaml_file import read_scalar, read_yaml


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the caller checks the message
        read_yaml(path)
    message = str(error.value)
    assert message.startswith(f"{path}:")
    assert "\n" not in message
    assert len(message) < 1000
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name: x\ncores:\n  count: 4\n  clock: [1, 2\nnoc: 3\n", ":5:4: not YAML"),
        (b"name: x\ncores:\n  count: 4\n  count: 2\n", ":4:3: not YAML: 'count' stands twice"),
        (b"name: x\n? [1, 2]\n: 1\n", ":2:3: not YAML: a key must be a single text"),
        (b"\xff\xfe\x00", ": byte 0 is not UTF-8 text"),
        (b"a: 1\n#" + b"x" * (2 << 20), ": larger than 262144 bytes"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", ":2:8: not YAML: aliases are not allowed"),
        (b"[" * 100_000, ": not YAML: nested too deeply"),
        (b"name: !!python/object/apply:os.system [ls]\n", ":1:7: not YAML: could not determine a constructor"),
        (b"name: 2020-99-99\n", ":1:7: not YAML: '2020-99-99' is no timestamp"),
        (b"cores: " + b"9" * 5000 + b"\n", ":1:8: not YAML: '999"),
        (b"cores: !!int ''\n", ":1:8: not YAML: '' is no int"),
        (b"cores: !!timestamp x\n", ":1:8: not YAML: 'x' is no timestamp"),
    ],
)
def test_a_hostile_file_gives_one_short_line_with_its_place(tmp_path: Path, content: bytes, expected: str) -> None:
    assert refusal(tmp_path / "mine.yaml", content).startswith(expected)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.yaml: not readable: No such file"):
        read_yaml(tmp_path / "none.yaml")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.integers() | st.booleans() | st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", min_size=1), inner),
        max_leaves=9,
    )
)
def test_what_is_written_is_read(tmp_path: Path, content: object) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.dump(content, allow_unicode=True, Dumper=yaml.SafeDumper))
    assert read_yaml(path) == content


@pytest.mark.parametrize(
    ("given", "meant"),
    [("4", 4), (4, 4), ("6.4 Gb/s", "6.4 Gb/s"), ("null", None), ("[", "["), ("!!int ''", "!!int ''"), ("true", True)],
)
def test_an_override_means_what_it_means_in_a_file_and_is_itself_where_it_is_no_yaml(
    given: object, meant: object
) -> None:
    assert read_scalar(given) == meant
