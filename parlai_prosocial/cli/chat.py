"""``prosocial chat``: talk to one model, or to two side by side, on a local page."""

import threading
import webbrowser

import click

from parlai_prosocial.errors import UserError


@click.command()
@click.option(
    "--model",
    "models",
    required=True,
    multiple=True,
    help="ParlAI's -mf of -m prosocial, zoo:prosocial/NAME, a Hugging Face folder, peft adapter or "
    "hub name, or a .gguf file; give it twice to compare two.",
)
@click.option("--classifier", default=None, help="A -m prosocial/classifier; it labels each turn.")
@click.option(
    "--port", default=8028, show_default=True, help="Port of the page; 0 is any free one."
)
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
@click.option("--datapath", default=None, help="ParlAI's data path.")
def chat(
    models: tuple[str, ...],
    classifier: str | None,
    port: int,
    opens: bool,
    datapath: str | None,
) -> None:
    """Talk to one model, or to two on the same history, on a page that only this machine can see.

    You can regenerate and edit replies, and flag them with a reason. The page exports the
    conversation in ParlAI's format, and what you flagged and edited as own data: the flagged
    replies are its negatives. Whether a reply streams depends on the model's own decoding; with
    beams or --rerank it comes at once.

    \b
    Examples:
      prosocial chat --model zoo:prosocial/smollm2_135m_prosocial --open
      prosocial chat --model runs/own/model --model zoo:prosocial/smollm2_135m \\
          --classifier zoo:prosocial/minilm_safety
    """
    if len(models) > 2:
        raise UserError(f"--model: given {len(models)} times; the page shows one or two")
    try:
        from parlai_prosocial.chat.server import HOST, ChatApp, listen, serve
    except ModuleNotFoundError as error:
        raise UserError(
            f"prosocial chat needs {error.name}: run `pip install 'parlai-prosocial[chat]'`"
        ) from None
    from parlai_prosocial.chat.talking import StreamingModel
    from parlai_prosocial.models.precision import best_device
    from parlai_prosocial.zoo.resolve import open_classifier, open_generator, shown_name

    listening = listen(port)
    device = best_device()
    opened = []
    for number, name in enumerate(models):
        model = open_generator(name, "--model", datapath)
        model.backbone.to(device)
        # Told apart in the page and its exports also where it is one model twice.
        shown = shown_name(name) + " (2)" * (number > 0 and name == models[0])
        opened.append(StreamingModel(shown, model))
    judge = None
    if classifier is not None:
        judge = open_classifier(classifier, "--classifier", datapath).to(device)
    app = ChatApp(opened, judge, classifier)
    url = f"http://{HOST}:{listening.getsockname()[1]}/"
    click.echo(f"{url}  (Ctrl+C ends it)")
    if opens:
        # It waits for the first answer, and a browser in the terminal until it is left.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    serve(app, listening)
