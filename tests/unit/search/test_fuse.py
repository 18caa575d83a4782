"""One score from several legs: its scale, its order, and what it must never lose."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from memfast.search.fuse import (
    STRONG_WEIGHTS,
    BoostSettings,
    FusionSettings,
    best,
    boost,
    calibrate_lexical,
    calibrate_vector,
    centre,
    fuse,
)

SHARES = st.floats(0, 1)
SETTINGS = st.builds(
    FusionSettings,
    method=st.sampled_from(["convex", "rrf"]),
    weights=st.fixed_dictionaries({"lexical": SHARES, "vector": SHARES, "graph": SHARES}),
    convergence=SHARES,
)


@st.composite
def legs(draw):
    """Scaled scores of two legs over the same candidates; NaN where a leg knows nothing."""
    count = draw(st.integers(1, 20))
    score = st.one_of(SHARES, st.just(0.0), st.just(float("nan")))
    return {name: np.array(draw(st.lists(score, min_size=count, max_size=count))) for name in ("lexical", "vector")}


def test_the_convex_sum_by_hand():
    """0.7 of the words and 0.3 of the vector, and both stand in the explanation."""
    fused = fuse({"lexical": np.array([0.5, 0.0]), "vector": np.array([0.2, 1.0])}, FusionSettings())
    assert fused.scores.tolist() == [0.41, 0.3]
    assert {name: scores.tolist() for name, scores in fused.scaled.items()} == {"lexical": [0.5, 0], "vector": [0.2, 1]}
    assert fused.bonus.tolist() == [0, 0]


def test_only_the_proportions_of_weights_count():
    """Weights of 7 and 3 are those of 0.7 and 0.3."""
    found = {"lexical": np.array([0.4, 0.1]), "vector": np.array([0.3, 0.9])}
    whole = fuse(found, FusionSettings(weights={"lexical": 7, "vector": 3}))
    assert whole.scores.tolist() == fuse(found, FusionSettings()).scores.tolist()


@given(legs(), SETTINGS)
def test_scores_are_shares(found, settings):
    """Whatever the legs say, a score lies in 0..1, has six decimals and is a number."""
    scores = fuse(found, settings).scores
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores == np.round(scores, 6)).all()


@given(legs(), st.integers(0, 19), SHARES)
def test_a_score_does_not_depend_on_other_hits(found, row, other):
    """Changing or leaving out every other candidate leaves a candidate's score as it was."""
    row %= len(found["lexical"])
    alone = fuse({name: scores[row : row + 1] for name, scores in found.items()}, FusionSettings(convergence=0.1))
    changed = {name: np.where(np.arange(len(scores)) == row, scores, other) for name, scores in found.items()}
    assert fuse(found, FusionSettings(convergence=0.1)).scores[row] == alone.scores[0]
    assert fuse(changed, FusionSettings(convergence=0.1)).scores[row] == alone.scores[0]


@given(legs(), st.sampled_from(["lexical", "vector"]), SHARES)
def test_a_better_leg_never_lowers_a_score(found, name, gain):
    """Raising one leg's score of a candidate raises or keeps its score."""
    better = found | {name: np.minimum(np.nan_to_num(found[name]) + gain, 1.0)}
    settings = FusionSettings(convergence=0.1)
    assert (fuse(better, settings).scores >= fuse(found, settings).scores).all()


def test_a_leg_that_is_out_keeps_the_scale():
    """Without the vector leg a memory's score is what its words earned in full mode, not more."""
    words = np.array([0.8, 0.2])
    both = fuse({"lexical": words, "vector": np.array([np.nan, 0.0])}, FusionSettings())
    assert fuse({"lexical": words}, FusionSettings()).scores.tolist() == both.scores.tolist() == [0.56, 0.14]


def test_legs_must_agree_in_length():
    """Legs over different candidates are a mistake of the caller."""
    with pytest.raises(ValueError, match="one length"):
        fuse({"lexical": np.zeros(2), "vector": np.zeros(3)}, FusionSettings())
    with pytest.raises(ValueError, match="at least one"):
        fuse({}, FusionSettings())


def test_a_leg_without_weight_is_only_explained():
    """A leg that the weights do not name counts nothing, and says what it found."""
    fused = fuse({"lexical": np.array([0.5]), "graph": np.array([1.0])}, FusionSettings())
    assert fused.scores.tolist() == [0.35]
    assert {name: scores.tolist() for name, scores in fused.scaled.items()} == {"lexical": [0.5], "graph": [1.0]}
    assert fused.bonus.tolist() == [0]


def test_convergence_rewards_agreement_alone():
    """The bonus is a share of the lower of two scores: nothing for what one leg found."""
    settings = FusionSettings(convergence=0.2)
    fused = fuse({"lexical": np.array([0.5, 0.5]), "vector": np.array([0.4, 0.0])}, settings)
    assert fused.bonus.tolist() == pytest.approx([0.08, 0.0])
    assert fused.scores.tolist() == [0.55, 0.35]
    assert fuse({"lexical": np.array([0.5])}, settings).bonus.tolist() == [0.0]


def test_rank_fusion_by_hand():
    """Each leg gives (k + 1) / (k + rank), the first of every leg gets 1, and equals rank by row."""
    settings = FusionSettings(method="rrf", weights={"lexical": 1, "vector": 1})
    fused = fuse({"lexical": np.array([0.9, 0.2, 0.2]), "vector": np.array([0.8, np.nan, 0.0])}, settings)
    assert fused.scores.tolist() == [1.0, round(61 / 62 / 2, 6), round(61 / 63 / 2, 6)]


def test_words_are_a_share_of_their_ceiling():
    """BM25 divided by what the query could reach at most; a query without terms finds nothing."""
    assert calibrate_lexical(np.array([2.0, 0.0, np.nan, 9.0]), 8.0).tolist() == [0.25, 0.0, 0.0, 1.0]
    assert calibrate_lexical(np.array([2.0]), 0.0).tolist() == [0.0]


def test_similarity_begins_at_its_floor():
    """The floor is 0, a similarity of 1 is 1, and nothing leaves 0..1."""
    scaled = calibrate_vector(np.array([-0.2, 0.4, 1.0, -1.0, np.nan, 1.5]), -0.2)
    assert scaled.tolist() == pytest.approx([0.0, 0.5, 1.0, 0.0, 0.0, 1.0])


def test_the_centre_takes_out_what_all_share():
    """What stands in every memory stops telling them apart, and what tells them apart remains."""
    vectors = np.array([[0.8, 0.6, 0.0], [0.8, 0.0, 0.6], [0.8, -0.6, 0.0], [0.8, 0.0, -0.6]] * 250)
    middle = centre(vectors.sum(axis=0), len(vectors), 50.0)
    similarities = vectors[:4] @ (vectors[0] - middle)
    assert middle == pytest.approx([0.8 * 1000 / 1050, 0, 0])
    assert similarities[0] > 0.35
    assert similarities[1] < 0.05


def test_a_single_memory_does_not_vanish_beside_itself():
    """With one memory the centre is near nothing, so an equal text keeps nearly all its similarity."""
    vector = np.array([0.6, 0.8])
    assert vector @ (vector - centre(vector, 1, 50.0)) > 0.95


def test_boosts_are_off_by_default():
    """Nothing is changed, not even copied."""
    scores = np.array([0.4])
    assert boost(scores, np.ones(1), np.zeros(1), BoostSettings()) is scores


def test_boosts_by_hand():
    """0.6 of the similarity, 0.3 of the importance, 1.15 times within an hour, 1 at most; what is not found stays so."""
    settings = BoostSettings(similarity_weight=0.6, importance_weight=0.3, recency_factor=1.15)
    ages_s = np.array([3600.0, 3601.0, -5.0, 0.0])
    lifted = boost(np.array([0.5, 0.5, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 1.0]), ages_s, settings)
    assert lifted.tolist() == [0.69, 0.6, 1.0, 0.0]


@given(legs(), st.integers(1, 25), SHARES, st.integers(0, 3))
def test_the_best_against_a_plain_sort(found, limit, min_score, guaranteed):
    """Hits are sorted by score and row, above the bound, as many as asked for, with the best by words among them."""
    scores = fuse(found, FusionSettings()).scores
    words = np.nan_to_num(found["lexical"])
    rows = best(scores, limit, min_score=min_score, words=words, guaranteed=guaranteed).tolist()
    eligible = [row for row in range(len(scores)) if scores[row] > 0 and scores[row] >= min_score]
    by_words = sorted((row for row in eligible if words[row] > 0), key=lambda row: (-words[row], row))
    assert rows == sorted(rows, key=lambda row: (-scores[row], row))
    assert len(set(rows)) == len(rows) == min(limit, len(eligible))
    assert set(by_words[: min(guaranteed, limit // 2)]) <= set(rows)
    if guaranteed == 0:
        assert rows == sorted(eligible, key=lambda row: (-scores[row], row))[:limit]


@pytest.mark.parametrize("weights", [FusionSettings().weights, STRONG_WEIGHTS, {"lexical": 0.05, "vector": 0.95}])
def test_a_hit_by_words_alone_survives(weights):
    """One memory has the ticket's number, vectors rank it last of ten thousand, and it is among ten results."""
    words, similarities = np.zeros(10_000), np.full(10_000, 0.9)
    words[7_777], similarities[7_777] = 0.19, 0.0
    settings = FusionSettings(weights=weights)
    scores = fuse({"lexical": words, "vector": similarities}, settings).scores
    assert 7_777 in best(scores, 10, words=words, guaranteed=settings.guaranteed)
    assert 7_777 not in best(fuse({"vector": similarities}, settings).scores, 10)


def test_all_words_outrank_the_best_vector_without_any():
    """With the default weights a memory of average length that has every word stands before any that has none."""
    k1 = 0.9
    share = 1 / (1 + k1)
    scores = fuse({"lexical": np.array([0.0, share]), "vector": np.array([1.0, 0.0])}, FusionSettings()).scores
    assert scores[1] > scores[0]


def test_ties_for_the_last_place_go_to_the_lower_row():
    """Equal scores are ordered by row also where not all of them fit."""
    scores = np.array([0.1, 0.5, 0.5, 0.5, 0.9])
    assert best(scores, 3).tolist() == [4, 1, 2]
    assert best(scores, 0).tolist() == []


def test_settings_refuse_what_makes_no_sense():
    """A negative weight or a floor of 1 is refused when settings are decoded."""
    import msgspec

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"weights": {"lexical": -1}}, FusionSettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"vector_floor": 1}, FusionSettings)
    assert replace(FusionSettings(), guaranteed=0).guaranteed == 0
