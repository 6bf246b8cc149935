"""References to the user's own code lead to it, or to an error that says what is wrong."""

import pickle
import sys

import pytest

from torchbeast.user_code import is_reference, load


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torchbeast_file_mine", raising=False)  # of another test
    path = tmp_path / "mine.py"
    path.write_text("class Thing:\n    pass\n\nANSWER = 42\n")
    return path


def test_a_colon_makes_a_reference():
    assert is_reference("a.py:B")
    assert is_reference("a.b:c")
    assert not is_reference("shallow")


def test_a_file_is_loaded_once_and_its_classes_can_be_pickled(file):
    thing = load(f"{file}:Thing")
    assert load(f"{file}:Thing") is thing
    assert load(f"{file}:ANSWER") == 42
    assert thing.__module__ == "torchbeast_file_mine"
    assert pickle.loads(pickle.dumps(thing)) is thing


def test_files_of_one_name_are_kept_apart(file, tmp_path):
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text("ANSWER = 43\n")
    assert (load(f"{file}:ANSWER"), load(f"{other}:ANSWER")) == (42, 43)


def test_a_module_is_imported():
    assert load("math:pi") > 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py:A", r"expected a Python file, got 'nowhere.py', which does not exist"),
        ("no_such_module:A", r"expected a module, got 'no_such_module'.*on the path"),
        ("FILE:Think", r"expected 'Think' in .*mine.py, which has Thing, ANSWER"),
        ("FILE:", r"expected module:name or path/to/file.py:name"),
        (":A", r"expected module:name or path/to/file.py:name"),
    ],
)
def test_a_reference_to_nothing_is_one_clear_error(file, name, message):
    with pytest.raises(ValueError, match=message):
        load(name.replace("FILE", str(file)))


def test_a_file_that_breaks_is_read_again(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        load(f"{path}:A")
    path.write_text("A = 1\n")
    assert load(f"{path}:A") == 1
