from __future__ import annotations

from kelpie_worker.commitment import SETTLED_S, Commitment


def test_without_a_word_every_upload_may_be_a_checkpoint() -> None:
    commitment = Commitment(uploads=True)
    commitment.look(10, checkpoint_s=None, last_upload_s=0, oldest_change_s=5)
    assert commitment.at_s == 0
    commitment.look(20, checkpoint_s=None, last_upload_s=15, oldest_change_s=16)
    assert commitment.at_s == 15


def test_a_checkpoint_counts_once_what_was_written_then_is_stored() -> None:
    commitment = Commitment(uploads=True)
    commitment.look(11, checkpoint_s=10, last_upload_s=0, oldest_change_s=9)
    assert commitment.at_s == 0
    commitment.look(12, checkpoint_s=11.5, last_upload_s=11, oldest_change_s=9.5)  # something else was stored
    assert commitment.at_s == 0
    commitment.look(13, checkpoint_s=12.5, last_upload_s=12, oldest_change_s=11)  # a later change only waits
    assert commitment.at_s == 10
    commitment.look(14, checkpoint_s=12.5, last_upload_s=13, oldest_change_s=None)
    assert commitment.at_s == 12.5
    commitment.look(90, checkpoint_s=12.5, last_upload_s=80, oldest_change_s=None)  # a log, not a checkpoint
    assert commitment.at_s == 12.5


def test_a_checkpoint_that_was_stored_before_it_was_said_counts_too() -> None:
    commitment = Commitment(uploads=True)
    commitment.look(11, checkpoint_s=10, last_upload_s=9, oldest_change_s=None)
    assert commitment.at_s == 0
    commitment.look(10 + SETTLED_S, checkpoint_s=10, last_upload_s=9, oldest_change_s=None)
    assert commitment.at_s == 10


def test_a_command_that_stores_its_own_data_is_believed() -> None:
    commitment = Commitment(uploads=False)
    commitment.look(11, checkpoint_s=10, last_upload_s=0, oldest_change_s=None)
    assert commitment.at_s == 10
