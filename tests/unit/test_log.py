"""The log where there is no journal: the files of syslogd(8), and its rotated ones."""

import bz2
import gzip
import os
import time

import _mailsrv_log as log
import pytest

NOW = 1795724345


@pytest.fixture
def maillog(tmp_path, monkeypatch):
    """A machine without journalctl, whose log is written by day."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(log, "FILES", (str(tmp_path / "maillog"),))

    def write(name, days, *said, opened=open):
        at = NOW - days * 86400
        stamp = time.strftime("%b %e %H:%M:%S", time.localtime(at))
        with opened(tmp_path / name, "wb") as file:
            file.writelines(f"{stamp} mail smtpd[1]: {one}\n".encode("latin-1") for one in said)
        os.utime(tmp_path / name, (at + 60, at + 60))

    monkeypatch.setattr(time, "time", lambda: float(NOW))
    return write


def said(*limits):
    return [entry["MESSAGE"] for entry in log.entries(*limits)]


def test_the_rotated_files_come_first_and_what_is_older_is_not_read(maillog):
    maillog("maillog.2.bz2", 40, "oldest", opened=bz2.open)
    maillog("maillog.1.gz", 3, "old\xff", "old", opened=gzip.open)
    maillog("maillog.0", 2, "younger")
    maillog("maillog", 0, "now")
    assert said(0) == ["oldest", "old\ufffd", "old", "younger", "now"]
    assert said(NOW - 10 * 86400) == ["old\ufffd", "old", "younger", "now"]
    assert said(NOW - 10 * 86400, NOW - 86400) == ["old\ufffd", "old", "younger"]
    assert log.oldest() == NOW - 40 * 86400


def test_what_cannot_be_read_is_left_out(maillog, tmp_path):
    maillog("maillog", 0, "now")
    (tmp_path / "maillog.3.bz2").write_bytes(b"BZh9 broken")
    (tmp_path / "maillog.4.xz").write_bytes(b"\xfd7zXZ\0broken")
    (tmp_path / "maillog.5.gz").write_bytes(gzip.compress(b"x" * 9999)[:20])
    (tmp_path / "maillog.d").mkdir()
    assert said(0) == ["now"]
    (tmp_path / "maillog").unlink()
    assert said(0) == []
    assert log.oldest() is None
