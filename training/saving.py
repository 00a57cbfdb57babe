"""The end of a training job: the bundle with its canary, then its figures."""

from prompts.bundle import Bundle, save_bundle
from prompts.canary import Canary
from training.backbone import Backbone, LlavaBackbone
from training.canary import canary_examples, in_float32, make_canary
from training.config import TrainConfig
from training.measure import validation_metrics
from training.preflight import Inputs

__all__ = ["save_trained"]


def save_trained(
    config: TrainConfig, backbone: Backbone, trained: Bundle, inputs: Inputs, *, write: bool = True
) -> Bundle:
    """Writes the bundle, measures it where there is validation data, and writes it again with the figures.

    The canary is in it from the first: a server that follows the folder never sees it without.

    `write`: False in a process that is only there because it holds a part of the model.

    Raises:
        BundleError: see `prompts.bundle.save_bundle`.
        PictureError: a file of the data is no picture.
    """
    manifest, tensors = trained.manifest, trained.tensors
    canary = _canary(config, backbone, trained, inputs)
    bundle = save_bundle(config.bundle_folder, manifest, tensors, canary) if write else trained
    metrics = validation_metrics(config, backbone, bundle, inputs.validation)
    if not metrics or not write:
        return bundle
    return save_bundle(
        config.bundle_folder, manifest.model_copy(update={"metrics": metrics}), tensors, canary
    )


def _canary(config: TrainConfig, backbone: Backbone, trained: Bundle, inputs: Inputs) -> Canary | None:
    """None where the config wants none.

    None too, with a note that is printed, where the model is not in LLaVA's layout (canaries are made there
    alone), and where no example of those looked at has the picture it needs.
    """
    if not config.canary:
        return None
    if not isinstance(backbone, LlavaBackbone):
        _note_without("one is made through a model in LLaVA's layout alone")
        return None
    source = inputs.validation or inputs.data
    needs_picture = trained.manifest.text is None
    examples = canary_examples(source, config.canary, with_picture=needs_picture)
    if not examples:
        _note_without("no example that was looked at has a picture")
        return None
    with in_float32(backbone, config.model):
        return make_canary(backbone, trained, examples, config.model)


def _note_without(why: str) -> None:
    print(f"the bundle gets no canary: {why}; a server will not ask its engine about it")
