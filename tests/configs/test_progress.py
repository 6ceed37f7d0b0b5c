"""Progress that nobody sees, and a stop that nobody asks for."""

from mambavl.configs.progress import never, unseen


def test_without_a_listener_work_goes_on_in_silence(capsys):
    unseen(1, 2)
    assert not never()
    assert capsys.readouterr().out == ""
