"""The commands. Each asks, prints and gives an exit code: 0 done, 1 failed, 2 used wrongly."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from paceline import __version__
from paceline.bench import Load
from paceline.checkpoint import DEFAULT_MODEL
from paceline.cli import bench as benching
from paceline.cli import chaos as tumult
from paceline.cli import chaos_view, show
from paceline.cli import doctor as examination
from paceline.cli import drain as draining
from paceline.cli import models as store
from paceline.cli import place as placing
from paceline.cli import run as running
from paceline.cli import up as upping
from paceline.cli.api import Api, running_cluster
from paceline.cli.sizes import parse_bytes
from paceline.cluster.local.options import DEFAULT_HOST, DEFAULT_PORT, UpOptions
from paceline.cluster.ray.options import (
    CONTROL_PORT,
    HOSTNAME,
    RAY_PORT,
    HeadOptions,
    JoinOptions,
)
from paceline.cluster.ray.up import address_towards, own_address
from paceline.process.config import read_config
from paceline.process.exposure import API_KEY_VARIABLE
from paceline.process.home import Home
from paceline.types.errors import InvalidRequest, PacelineError, Unavailable
from paceline.types.ids import NodeName
from paceline.types.states import Objective

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Ordinary machines, one line: serve a language model over them.\n\n"
    f"First steps: [bold]paceline run {DEFAULT_MODEL} 'Hello'[/bold], or "
    f"[bold]paceline up --nodes 2 --model {DEFAULT_MODEL}[/bold] and any OpenAI client.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Model = Annotated[str, typer.Argument(help="A name that `paceline models` lists.")]
MinNodes = Annotated[int, typer.Option(help="Use at least this many nodes.", min=1)]
MaxNodes = Annotated[int | None, typer.Option(help="Use at most this many nodes.", min=1)]
Dtype = Annotated[
    str, typer.Option(help="How weights are held: auto (int8), int8, int4 or float32.")
]
KvTokens = Annotated[int | None, typer.Option(help="Tokens of KV for all streams together.")]


class Kind(StrEnum):
    """What a cluster is made of."""

    LOCAL = "local"
    RAY = "ray"


class _Target:
    """Which home, and which cluster if not the one that runs there."""

    home = Home()
    url: str | None = None
    api_key: str | None = None


@app.callback()
def _global(
    home: Annotated[
        Path | None, typer.Option(help="PACELINE_HOME; ~/.paceline by default.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(envvar="PACELINE_URL", help="A cluster that runs elsewhere.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar=API_KEY_VARIABLE, help="The key it asks for.")
    ] = None,
) -> None:
    _Target.home, _Target.url, _Target.api_key = Home(home), url, api_key


def _api() -> Api:
    api = running_cluster(_Target.home, _Target.url, _Target.api_key)
    if api is None:
        raise Unavailable("no cluster is running here; `paceline up` starts one")
    return api


def _print(value: Any, as_json: bool, columns: Any, empty: str) -> None:
    if as_json:
        show.as_json(value)
    else:
        show.table(columns, value, empty)


# --- the cluster -------------------------------------------------------------------------------


NodeMemory = Annotated[
    str | None, typer.Option(help="What a node offers, such as 2GiB; default: what is free.")
]
ThisNode = Annotated[str, typer.Option("--node", help="This machine's name in the cluster.")]


@app.command()
def up(
    cluster: Annotated[
        Kind, typer.Option(help="local: this machine alone; ray: the first of many.")
    ] = Kind.LOCAL,
    nodes: Annotated[int, typer.Option(help="Virtual nodes; local only.", min=1)] = 1,
    node_memory: NodeMemory = None,
    model: Annotated[list[str] | None, typer.Option(help="Serve this model; repeatable.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; ray: where other machines reach it.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any.", min=0)] = DEFAULT_PORT,
    node: ThisNode = HOSTNAME,
    control_port: Annotated[int, typer.Option(help="Of the control path; ray.")] = CONTROL_PORT,
    ray_port: Annotated[int, typer.Option(help="Of Ray's head; ray.")] = RAY_PORT,
    ray_address: Annotated[
        str | None, typer.Option(help="HOST:PORT of a Ray head that is there already; ray.")
    ] = None,
) -> None:
    """Start a cluster here and show what happens in it, until Ctrl-C."""
    config = read_config(_Target.home.path)
    memory = None if node_memory is None else parse_bytes(node_memory)
    if cluster is Kind.RAY:
        if nodes != 1:
            raise InvalidRequest("--nodes is for virtual nodes; with Ray each machine is one")
        head = HeadOptions(
            home=str(_Target.home.path),
            host=host or own_address(),
            port=port,
            node=NodeName(node),
            node_memory=memory,
            control_port=control_port,
            ray_port=ray_port,
            ray_address=ray_address,
            api_key=_Target.api_key,
            timing=config.timing,
            tiers=config.tiers,
        )
        raise typer.Exit(upping.up_head(head, model or []))
    options = UpOptions(
        home=str(_Target.home.path),
        nodes=nodes,
        node_memory=memory,
        host=host or DEFAULT_HOST,
        port=port,
        api_key=_Target.api_key,
        timing=config.timing,
        tiers=config.tiers,
    )
    raise typer.Exit(upping.up(options, model or []))


@app.command()
def join(
    head: Annotated[str, typer.Argument(help="HOST:PORT as `paceline up` printed it.")],
    token: Annotated[
        str | None,
        typer.Option(
            envvar=upping.TOKEN_VARIABLE,
            help="As `paceline token` shows it there; -: asked for. Not needed to come back. "
            "Other users of this machine can read what is on a command line.",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="This machine's address; default: the one towards the head.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any.", min=0)] = DEFAULT_PORT,
    node: ThisNode = HOSTNAME,
    node_memory: NodeMemory = None,
    has_ray: Annotated[bool, typer.Option("--has-ray", help="Ray runs here already.")] = False,
) -> None:
    """Make this machine a node of a cluster, until Ctrl-C or `paceline leave`."""
    options = JoinOptions(
        home=str(_Target.home.path),
        head=head,
        token=upping.read_token(token),
        host=host or address_towards(head),
        port=port,
        node=NodeName(node),
        node_memory=None if node_memory is None else parse_bytes(node_memory),
        has_ray=has_ray,
    )
    raise typer.Exit(upping.join(options))


@app.command()
def token(json: Json = False) -> None:
    """The word with which other machines join; only on the head. Who has it is a member."""
    shown = upping.token(_Target.home)
    if json:
        show.as_json({"token": shown})
    else:
        show.out.print(shown, markup=False, highlight=False, soft_wrap=True)


@app.command()
def leave(json: Json = False) -> None:
    """Take this machine out of the cluster that it joined: what runs here moves to others."""
    pid = upping.leave(_Target.home)
    if json:
        show.as_json({"ended": pid})
    else:
        show.out.print("nothing was running" if pid is None else f"left (process {pid} has ended)")


@app.command()
def down(json: Json = False) -> None:
    """End what runs in this home: a whole cluster, or this machine's part of one."""
    pid = upping.down(_Target.home)
    if json:
        show.as_json({"ended": pid})
    else:
        show.out.print("no cluster was running" if pid is None else f"ended (process {pid})")


@app.command()
def status(json: Json = False) -> None:
    """What is served, by whom, and why what is not ready is not."""
    found = _api().get("/api/status")
    if json:
        show.as_json(found)
        return
    show.table(show.NODES, found["nodes"], "no nodes")
    for instance in found["instances"]:
        show.out.print()
        show.table(show.INSTANCES, [instance], "")
        show.sentences(instance["reasons"])
        show.table(show.RUNNERS, instance["runners"], "  no runners")
    show.sentences(found["sentences"], indent="")


@app.command()
def nodes(json: Json = False) -> None:
    """The nodes, what they offer and what of it is reserved."""
    _print(_api().get("/api/nodes"), json, show.NODES, "no nodes")


@app.command()
def drain(
    node: Annotated[str, typer.Argument(help="A name that `paceline nodes` lists.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it have seats again.")] = False,
    wait: Annotated[bool, typer.Option(help="Until nothing is left on it.")] = True,
    json: Json = False,
) -> None:
    """Empty a node: what runs there moves to other nodes, streams and all. It gets nothing new
    until --undo."""
    api = _api()
    found = draining.undrain(api, node) if undo else draining.drain(api, node, wait=wait)
    if json:
        show.as_json(found)
    elif undo:
        show.line(f"{node} may be given seats again")
    else:
        left = len(found["runners"])
        show.line(f"{node} is empty" if not left else f"{node} has {left} runners left")


@app.command()
def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen.")] = False,
    since: Annotated[int, typer.Option(help="Only events after this number.")] = 0,
    json: Json = False,
) -> None:
    """Every decision of the controller, a sentence each."""
    api = _api()
    if not follow:
        found = api.get("/api/events", follow="false", since=since)
        if json:
            show.as_json(found)
            return
        for event in found:
            show.line(show.event_line(event))
        return
    for event in api.events(f"/api/events?since={since}"):
        if json:
            show.as_json(event)
        else:
            show.line(show.event_line(event))


@app.command()
def doctor(json: Json = False) -> None:
    """Check this machine: what works, what does not, what to do."""
    findings = examination.examine(_Target.home)
    if json:
        show.as_json(findings)
    else:
        for finding in findings:
            mark = "[green]ok[/green]  " if finding.ok else "[red]bad[/red] "
            show.out.print(f"{mark} [bold]{finding.check:<9}[/bold]", end=" ")
            show.out.print(finding.finding, markup=False)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


# --- instances ---------------------------------------------------------------------------------


@app.command()
def ps(json: Json = False) -> None:
    """The instances and the line each runs on."""
    _print(_api().get("/api/instances"), json, show.INSTANCES, "no instances")


@app.command()
def place(
    model: Model,
    min_nodes: MinNodes = 1,
    max_nodes: MaxNodes = None,
    objective: Annotated[Objective, typer.Option(help="What to minimise.")] = Objective.LATENCY,
    dtype: Dtype = "auto",
    kv_tokens: KvTokens = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be.")] = False,
    cluster: Annotated[
        Path | None,
        typer.Option(
            help="Only say what would be on the nodes that this TOML file describes; MODEL may "
            "then be the path of a config.json.",
            dir_okay=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Ask for an instance of a model, or see where it would go, what it would take, and why."""
    wish = {
        "model": model,
        "min_nodes": min_nodes,
        "max_nodes": max_nodes,
        "objective": objective.value,
        "dtype": dtype,
        "kv_tokens": kv_tokens,
    }
    if not dry_run and cluster is None:
        made = _api().post("/api/instances", wish)
        _print([made] if not json else made, json, show.INSTANCES, "")
        return
    if cluster is not None:
        found = placing.for_described(model, cluster, wish, _Target.home)
    else:
        found = _api().get("/api/placements", **wish)
    if json:
        show.as_json(found)
    else:
        placing.show_preview(found)
    if not found["placement"]:
        raise typer.Exit(1)


@app.command()
def task(
    runner: Annotated[str, typer.Argument(help="An id that `paceline status` lists.")],
    kind: Annotated[str, typer.Argument(help="fetch, load, connect, warm_up, drain or stop.")],
    epoch: Annotated[
        str | None, typer.Option(help="Such as 1.5; default: the runner's newest.")
    ] = None,
    json: Json = False,
) -> None:
    """Hand a runner a task. An impossible one ends failed, with its reason, and hurts nothing."""
    body = {"kind": kind} | ({} if epoch is None else {"epoch": epoch})
    given = _api().post(f"/api/runners/{runner}/tasks", body)
    if json:
        show.as_json(given)
    else:
        why = f": {given['reason']}" if given["reason"] else ""
        show.line(f"{given['kind']} on {given['runner']} is {given['state']}{why}")
    if given["state"] in ("failed", "timed_out"):
        raise typer.Exit(1)


@app.command()
def rm(
    instance: Annotated[str, typer.Argument(help="An id that `paceline ps` lists.")],
    json: Json = False,
) -> None:
    """End an instance; its runners drain and go."""
    gone = _api().delete(f"/api/instances/{instance}")
    if json:
        show.as_json(gone)
    else:
        show.out.print(f"{gone['id']} is {gone['state']}")


@app.command()
def run(
    model: Model,
    prompt: Annotated[str | None, typer.Argument(help="The question; default: stdin.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message before it.")] = None,
    nodes: Annotated[
        int | None, typer.Option(help="Use a cluster of our own, of this many nodes.", min=1)
    ] = None,
    min_nodes: MinNodes = 1,
    max_nodes: MaxNodes = None,
    dtype: Dtype = "auto",
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="End after so many.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same answer.")] = None,
    json: Json = False,
) -> None:
    """Ask one question, in the running cluster or in one started for it."""
    show.quiet = json
    question = running.Question(
        model=model,
        prompt=running.prompt_from(prompt),
        system=system,
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        dtype=dtype,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
    )
    api = running_cluster(_Target.home, _Target.url, _Target.api_key)
    answered = running.run(_Target.home, api, nodes, question)
    if json:
        show.as_json(answered)
    else:
        show.err.print(running.closing_line(answered.timings), style="dim", markup=False)


@app.command()
def bench(
    model: Model,
    world_size: Annotated[
        int | None, typer.Option(help="Over exactly this many nodes.", min=1)
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Streams at once, one level each.")] = "1,8,32",
    tokens: Annotated[int, typer.Option(help="Generated for each request.", min=1)] = 64,
    prompt_words: Annotated[int, typer.Option(help="Length of each prompt.", min=1)] = 24,
    rounds: Annotated[int, typer.Option(help="How often each level is measured.", min=1)] = 2,
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Measure this machine as a client sees it: tokens per second, first token, pauses, memory."""
    load = Load(
        model=model,
        concurrency=benching.parse_concurrency(concurrency),
        tokens=tokens,
        prompt_words=prompt_words,
        rounds=rounds,
    )
    api = running_cluster(_Target.home, _Target.url, _Target.api_key)
    benched = benching.bench(_Target.home, api, world_size, dtype, load)
    if json:
        show.as_json(benched)
    else:
        benching.show_benched(benched)
    if any(level.errors for level in benched.levels):
        raise typer.Exit(1)


@app.command()
def chaos(
    model: Annotated[str, typer.Argument(help="A name that `paceline models` lists.")] = (
        DEFAULT_MODEL
    ),
    nodes: Annotated[int, typer.Option(help="Virtual nodes, and ranks of the line.", min=1)] = 2,
    streams: Annotated[int, typer.Option(help="Clients at once.", min=1, max=256)] = 16,
    kills: Annotated[int, typer.Option(help="Runners to kill.", min=1)] = 6,
    seed: Annotated[int, typer.Option(help="Of who is killed, and when.")] = 1,
    json: Json = False,
) -> None:
    """Watch streams go on while their runners are killed, in a cluster of its own.

    Exit code 0: no error, no token lost, none repeated.
    """
    show.quiet = json
    wish = tumult.Wish(model=model, nodes=nodes, streams=streams, kills=kills, seed=seed)
    seen = chaos_view.live() if show.err.is_terminal else tumult.plainly()
    with seen as watch:
        report = tumult.chaos(_Target.home, wish, watch)
    if json:
        show.as_json(report)
    else:
        show.out.print(chaos_view.told(report))
    if not report.is_unbroken:
        raise typer.Exit(1)


# --- models ------------------------------------------------------------------------------------


@app.command()
def models(json: Json = False) -> None:
    """The models in the store, and those that can be pulled."""
    _print(store.list_models(_Target.home), json, store.MODELS, "no models")


@app.command()
def pull(model: Model, json: Json = False) -> None:
    """Fetch a model into the store."""
    path = store.ensure_model(model, _Target.home)
    show.as_json({"model": model, "path": str(path)}) if json else show.out.print(
        f"{model}: {path}"
    )


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A GGUF file, or a Hugging Face directory.")],
    name: Annotated[str | None, typer.Option(help="Its name in the store.")] = None,
    json: Json = False,
) -> None:
    """Take a model from disk into the store."""
    made = store.import_path(path, name, _Target.home)
    if json:
        show.as_json({"model": made.name, "path": str(made)})
    else:
        show.out.print(f"{made.name}: {made}")


@app.command()
def version() -> None:
    """The version of Paceline."""
    show.out.print(__version__)


def main() -> None:
    """Entry point: errors that we expect are a sentence and exit code 1, never a traceback."""
    try:
        app()
    except PacelineError as error:
        if "--json" in sys.argv:
            message = {"error": {"code": error.code, "message": str(error)}}
            sys.stdout.write(msgspec.json.encode(message).decode() + "\n")
        show.err.print(f"paceline: {error}", markup=False, style="red")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
