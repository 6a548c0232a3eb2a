"""Folders are written as a whole, and nothing that others wrote is lost."""

import os

import pytest

from anytime_keras import _files


def save(path, *names, overwrite=False):
    with _files.writing_folder(path, overwrite) as folder:
        for name in names:
            (folder / name).write_text("new")


def files(path):
    return {entry.name: entry.read_text() for entry in path.iterdir()}


def test_a_new_folder_is_made_and_an_existing_one_is_filled(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir(mode=0o770)
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    mode = os.stat(".").st_mode
    save(".", "a", "b")
    save(tmp_path / "link", "c", overwrite=True)
    save(tmp_path / "deep" / "new", "d")
    assert files(tmp_path / "here") == {"c": "new"} and files(tmp_path / "deep" / "new") == {"d": "new"}
    assert os.path.samefile(os.getcwd(), tmp_path / "here") and os.stat(".").st_mode == mode
    assert sorted(os.listdir(tmp_path)) == ["deep", "here", "link"] and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("moves", range(4))
def test_a_folder_is_as_it_was_after_an_error_while_its_content_is_replaced(tmp_path, monkeypatch, error, moves):
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    rename, done = os.rename, []

    def fail(source, target):
        if len(done) == moves:
            done.append(None)
            raise error
        done.append(rename(source, target))

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(error):
        save(tmp_path, "b", "c", overwrite=True)
    assert files(tmp_path) == {"a": "old", "b": "old"}


def test_what_others_write_meanwhile_is_kept(tmp_path):
    with pytest.raises(FileExistsError, match="mine' was written meanwhile and is kept. Choose another folder."):
        with _files.writing_folder(tmp_path) as folder:
            (folder / "new").touch()
            (tmp_path / "mine").write_text("mine")
    assert files(tmp_path) == {"mine": "mine"}


def test_only_missing_empty_and_marked_folders_may_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "empty").mkdir()
    for name, mark in (("marked", "mark"), ("photos", "1.png")):
        (tmp_path / name).mkdir()
        (tmp_path / name / mark).touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").touch()
    for name in ("missing", "empty", "dangling"):
        assert _files.check_folder(f"~/{name}", "mark", "a set", overwrite=False) == tmp_path / name
    assert _files.check_folder(tmp_path / "marked", "mark", "a set", overwrite=True) == tmp_path / "marked"
    with pytest.raises(FileExistsError, match="already exists. Pass `overwrite=True` to replace a set."):
        _files.check_folder(tmp_path / "marked", "mark", "a set", overwrite=False)
    for name in ("photos", "file"):
        with pytest.raises(FileExistsError, match="is not a set, so it is not replaced. Choose another folder."):
            _files.check_folder(tmp_path / name, "mark", "a set", overwrite=True)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_are_replaced_with_the_permissions_that_the_user_wants(tmp_path, mask):
    before = os.umask(mask)
    try:
        _files.put(tmp_path / "new" / "file", "first")
        (tmp_path / "new" / "file.0123.part").touch()  # of a killed process
        _files.put(tmp_path / "new" / "file", "zweite Zeile, größer")
    finally:
        os.umask(before)
    assert os.listdir(tmp_path / "new") == ["file"]
    assert (tmp_path / "new" / "file").read_text(encoding="utf-8") == "zweite Zeile, größer"
    assert (tmp_path / "new" / "file").stat().st_mode & 0o777 == 0o666 & ~mask
