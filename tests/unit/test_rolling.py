"""The runner that rolls out: who does not answer is not well, however that shows."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "salt_mailsrv/_runners/mailsrv.py"
STATES = {"file_|-x_|-x_|-managed": {"__id__": "x", "result": None, "comment": "", "changes": {}}}


@pytest.fixture
def runner(monkeypatch):
    """The runner, with a client that answers by function as LocalClient.cmd does."""
    spec = importlib.util.spec_from_file_location("mailsrv_runner", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__ = module.__context__ = {}
    answers = {"test.ping": True, "mailsrv.lint": [], "state.highstate": STATES}

    class Client:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def cmd(self, target, function, arguments, timeout, tgt_type, kwarg, full_return):
            answer = answers.get(str(function), True)
            if not isinstance(answer, Exception):
                names = target if tgt_type == "list" else ["mx1", "mx2"]
                answer = {name: {"ret": answer, "retcode": 0} for name in names}
                return answer | away.get(str(function), {})
            return {}  # the job could not be published

    away = {}
    monkeypatch.setattr("salt.client.get_local_client", lambda **_: Client())
    module.answers, module.away = answers, away
    return module


@pytest.mark.parametrize("gone", [False, {"out": "no_return", "ret": "Minion did not return"}])
@pytest.mark.parametrize("function", ["test.ping", "saltutil.sync_all", "mailsrv.lint"])
def test_one_that_does_not_answer_keeps_all_from_being_touched(runner, function, gone):
    runner.away[function] = {"mx2": gone}
    told = runner.roll("mx*")
    assert told["retcode"] == 1
    assert told["stopped"].startswith("mx2: ")
    assert told.get("machines", {}).get("mx1", "untouched") == "untouched"


@pytest.mark.parametrize("function", ["saltutil.sync_all", "mailsrv.lint", "state.highstate"])
def test_a_job_that_nobody_gets_is_no_job_that_is_done(runner, function):
    runner.answers[function] = RuntimeError()
    told = runner.roll("mx*")
    assert told["stopped"].startswith("mx1, mx2: ")
    assert "no answer" in told["machines"]["mx1"]
    assert told["retcode"] == 1
