"""The manifest in Python: lists become tuples, nothing else is converted, the template is filled once."""

import pytest
from pydantic import ValidationError

from prompts.manifest import FrameSpec, Manifest, PrefixSpec, TextSpec, Usage
from tests.prompts.sample import BASE, whole_manifest


def test_a_manifest_goes_through_json_unchanged() -> None:
    manifest = whole_manifest()
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_lists_become_tuples_but_words_never_numbers() -> None:
    assert FrameSpec.model_validate({"canvas": [32, 32], "inner": 8}).canvas == (32, 32)
    assert Usage.model_validate({"choices": ["a", "b"]}).choices == ("a", "b")
    with pytest.raises(ValidationError):
        FrameSpec.model_validate({"canvas": ["32", 32], "inner": 8})


def test_a_manifest_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        whole_manifest().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["a", "ball-2.x_y", "0" * 63])
def test_good_names(name: str) -> None:
    assert whole_manifest(name=name).name == name


@pytest.mark.parametrize("name", ["", "A", "a:b", "a/b", "-a", ".a", "a b", "ä", "0" * 64, "a\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        whole_manifest(name=name)


@pytest.mark.parametrize(("inner", "fits"), [(1, True), (16, True), (17, False)])
def test_the_picture_fits_its_canvas(inner: int, fits: bool) -> None:
    fields = {"canvas": (16, 20), "inner": inner}
    if fits:
        assert FrameSpec.model_validate(fields).inner == inner
    else:
        with pytest.raises(ValidationError, match="leave a border"):
            FrameSpec.model_validate(fields)


def test_a_frame_without_a_border_is_refused() -> None:
    with pytest.raises(ValidationError, match="leave a border"):
        FrameSpec(canvas=(16, 16), inner=16)


def test_a_bundle_carries_something_learned() -> None:
    with pytest.raises(ValidationError, match="expected at least one, came none"):
        Manifest(name="a", version="1", usage=Usage(choices=("a", "b")))


def test_what_enters_the_model_needs_its_name() -> None:
    text = TextSpec(layers=1, length=1, hidden=1)
    with pytest.raises(ValidationError, match="the bundle carries text, lm_head"):
        Manifest(name="a", version="1", text=text, lm_head=True)
    assert Manifest(name="a", version="1", text=text, lm_head=True, base_model=BASE).lm_head


def test_the_template_takes_the_users_text_as_it_is() -> None:
    usage = Usage(template="Q: {text} {not a field} A:")
    assert usage.render("a {text} b") == "Q: a {text} b {not a field} A:"
    assert Usage().render("as it is") == "as it is"


@pytest.mark.parametrize("at", [(0, 2, 1), (0, 1, 1), (1, 1), (0, 3), (3,), (-1, 0), ()])
def test_layers_with_prompts_ascend(at: tuple[int, ...]) -> None:
    with pytest.raises(
        ValidationError, match=r"at to ascend to at most 2|at least 1 item|greater than or equal"
    ):
        TextSpec(layers=3, length=1, hidden=2, at=at)


@pytest.mark.parametrize("at", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_any_layers_may_have_prompts(at: tuple[int, ...]) -> None:
    assert TextSpec(layers=3, length=1, hidden=2, at=at).layer_indices == at


def test_prompts_of_all_layers_say_nothing_of_layers() -> None:
    """`at` is younger than format 1: what was saved without it keeps its digest."""
    whole, input_only = (
        TextSpec(layers=3, length=1, hidden=2),
        TextSpec(layers=3, length=1, hidden=2, at=(0,)),
    )
    assert whole.model_dump() == {"layers": 3, "length": 1, "hidden": 2}
    assert (whole.layer_indices, input_only.layer_indices) == ((0, 1, 2), (0,))
    manifest = Manifest(name="a", version="1", base_model=BASE, text=input_only)
    assert manifest.served_fields()["text"]["at"] == [0]
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_a_prefix_is_told_only_where_there_is_one() -> None:
    """It is younger than format 1: bundles without it keep their digests, and older versions read them."""
    text = Manifest(name="a", version="1", base_model=BASE, text=TextSpec(layers=2, length=3, hidden=4))
    assert "prefix" not in text.model_dump(mode="json")
    assert "prefix" not in text.served_fields()
    spec = PrefixSpec(layers=2, length=3, kv_heads=2, head_dim=4)
    prefix = Manifest(name="a", version="1", base_model=BASE, prefix=spec)
    assert Manifest.model_validate_json(prefix.model_dump_json()) == prefix
    assert prefix.served_fields()["prefix"] == {"layers": 2, "length": 3, "kv_heads": 2, "head_dim": 4}


def test_a_prefix_needs_its_base_and_no_text_beside_it() -> None:
    spec = PrefixSpec(layers=2, length=3, kv_heads=2, head_dim=4)
    with pytest.raises(ValidationError, match=r"base_model: expected .*the bundle carries prefix"):
        Manifest(name="a", version="1", prefix=spec)
    text = TextSpec(layers=2, length=3, hidden=4)
    with pytest.raises(ValidationError, match="prefix: expected null beside text, came both"):
        Manifest(name="a", version="1", base_model=BASE, text=text, prefix=spec)


def test_a_perturbation_may_cover_the_whole_picture() -> None:
    """VP: no border is needed, and the default is not written, so that older digests stay."""
    whole = FrameSpec(canvas=(16, 16), inner=16, free="all")
    assert whole.model_dump()["free"] == "all"
    assert "free" not in FrameSpec().model_dump()
    with pytest.raises(ValidationError, match="fit canvas"):
        FrameSpec(canvas=(16, 16), inner=17, free="all")
    with pytest.raises(ValidationError, match="expected value_range unbounded where free is all"):
        FrameSpec(canvas=(16, 16), inner=16, free="all", value_range="unit")
