"""What a report can know before it trains for hours: the model, the data, the places."""

from collections.abc import Iterator

from prompts.errors import ConfigError, InputError
from prompts.faults import fault
from training.data import make_source, open_data
from training.evaluate import choices_of
from training.preflight import checkpoint_faults
from training.report.m2pt.config import ReportConfig

__all__ = ["check"]


def check(config: ReportConfig) -> None:
    """Looks at everything the config names.

    Raises:
        ConfigError: with every fault.
    """
    faults = checkpoint_faults("model", config.model, "llava")
    if not faults:
        faults += _text_faults(config)
    faults += [*_train_faults(config), *_test_faults(config, "unseen"), *_test_faults(config, "seen")]
    if config.notes is not None and not config.notes.is_file():
        came = f"no {config.notes}"
        faults.append(fault("notes", expected="a Markdown file", came=came, cure="correct the path"))
    try:
        for folder in (config.pictures, config.cache):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        came = f"{error.filename} ({error.strerror})"
        faults.append(fault("out, cache", expected="folders to write in", came=came, cure="name others"))
    if faults:
        raise ConfigError("report", faults)


def _text_faults(config: ReportConfig) -> list[str]:
    """M²PT's first values are a text's hidden states, one a row."""
    from transformers import AutoTokenizer

    recipe = config.recipe
    if recipe.init_text is None:
        return []
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    count = len(tokenizer(recipe.init_text, add_special_tokens=False)["input_ids"])
    if count == recipe.text_length:
        return []
    expected, cure = f"{count}, the tokens of init_text", f"set text_length: {count}"
    return [fault("recipe.text_length", expected=expected, came=str(recipe.text_length), cure=cure)]


def _train_faults(config: ReportConfig) -> list[str]:
    try:
        open_data(config.train)
    except ConfigError as error:
        return [f"train: {one}" for one in error.faults]
    return []


def _test_faults(config: ReportConfig, field: str) -> Iterator[str]:
    """Tasks are averaged picture by picture, so they must have as many."""
    sizes: dict[str, int] = {}
    for name, entry in getattr(config, field).items():
        try:
            source = make_source(entry)
            if config.how == "ranking" or (config.how == "structured" and not config.usage.choices):
                choices_of(source[0])
            sizes[name] = len(source)
        except ConfigError as error:
            yield from (f"{field}.{name}: {one}" for one in error.faults)
        except InputError as error:
            yield f"{field}.{name}: {error}"
    if len(set(sizes.values())) > 1:
        came = ", ".join(f"{size} of {name}" for name, size in sizes.items())
        cure = "give them the same size or limit"
        yield fault(field, expected="as many test examples of every task", came=came, cure=cure)
