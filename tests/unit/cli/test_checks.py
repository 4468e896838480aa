"""What `doctor` makes of settings, files and disk."""

from pathlib import Path

from service.cli.checks import Level, check_files
from service.settings import Settings, load_settings


def settings(directory: Path, **variables: str) -> Settings:
    environ = {
        "RELAY_LOG_URL": f"sqlite:///{directory}/log.db",
        "RELAY_LEDGER_URL": f"sqlite:///{directory}/deep/below/ledger.db",
        **{f"RELAY_{name}": value for name, value in variables.items()},
    }
    return load_settings(environ, serving=False)


def test_files_that_can_be_made_are_fine_and_are_not_made(tmp_path: Path) -> None:
    findings = list(check_files(settings(tmp_path, DISK_RESERVE="1B")))
    assert [finding.result for finding in findings] == [Level.OK] * 4
    assert not list(tmp_path.iterdir())


def test_a_directory_in_place_of_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "log.db").mkdir()
    (tmp_path / "deep").touch()
    findings = list(check_files(settings(tmp_path)))
    assert [(finding.check, finding.result) for finding in findings] == [
        ("log file", Level.FAIL),
        ("ledger file", Level.FAIL),
    ]
    assert "RELAY_LOG_URL" in findings[0].says
    assert "is not a directory" in findings[1].says


def test_too_little_room_fails(tmp_path: Path) -> None:
    findings = list(check_files(settings(tmp_path, DISK_RESERVE="1000000TiB")))
    rooms = [finding for finding in findings if "disk" in finding.check]
    assert [finding.result for finding in rooms] == [Level.FAIL, Level.FAIL]
    assert "1000000TiB" in rooms[0].says
