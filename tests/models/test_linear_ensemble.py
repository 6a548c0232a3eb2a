"""Linear ensembles: plain networks by name, and the ensemble of them."""

import numpy as np
import pytest

import anytime_keras as ak

SHAPE = dict(input_shape=(8, 8, 1), num_classes=3)


def test_members_are_the_networks_without_their_early_exits():
    sizes = [(1, 1), (2, 1)]
    members = ak.linear_ensemble("denseann", "blocks", sizes, growth_rate=4, exit_every=1, **SHAPE)
    assert [member.name for member in members] == ["denseann_blocks_1_1", "denseann_blocks_2_1"]
    for member, blocks in zip(members, sizes):
        whole = ak.models.build("denseann", blocks=blocks, growth_rate=4, exit_every=1, **SHAPE)
        assert member.exit_names == whole.exit_names[-1:] and whole.num_exits > 1
        assert ak.cost.exit_costs(member)[-1].backbone == ak.cost.exit_costs(whole)[-1].backbone
        assert member.count_params() < whole.count_params()


def test_an_ensemble_of_them_returns_its_members_answers():
    members = ak.linear_ensemble("resann", "num_units", [1, 2], channels=2, **SHAPE)
    images = np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype("float32")
    labels = np.argmax(members[0](images)[members[0].exit_names[0]], axis=-1)
    eann = ak.EANN(members, validation=(images, labels))
    assert [one.used for one in eann.exits] == [True, False] and eann.exits[0].error == 0


def test_unknown_arguments_are_refused():
    with pytest.raises(ValueError, match="num_unit"):
        ak.linear_ensemble("resann", "num_unit", [1], channels=2, **SHAPE)
    for values in ([], 2, "12", None):
        with pytest.raises(ValueError, match="`values` must be a list.*`num_units`. Received: values="):
            ak.linear_ensemble("resann", "num_units", values, channels=2, **SHAPE)
