"""Commands about published models: list, show, promote, roll back, verify."""

from typing import Annotated

import typer

from smartcity import domains, registry
from smartcity.cli import common
from smartcity.cli.common import AsJson, DomainName, MaybeDomain, app, err, out, show, table
from smartcity.errors import ModelError, UsageError
from smartcity.registry import Card

models_app = typer.Typer(help="List, show, promote and roll back models.", no_args_is_help=True)
app.add_typer(models_app, name="models")


@models_app.command("list")
def models_list(domain: MaybeDomain = None, as_json: AsJson = False) -> None:
    """List the published versions; a star marks the one being served."""
    rows = []
    names = [n for d in common.chosen(None) for n in registry.names(d.name)]
    for name in [common.model(domain)] if domain else names:
        try:
            serving = registry.current(name)
        except ModelError as error:
            serving = ""
            if registry.versions(name) and domains.apart(name)[1] == domains.MAIN:
                err.print(str(error), highlight=False, markup=False)
        for version in registry.versions(name):
            row = {"domain": name, "version": version, "serving": version == serving}
            try:
                card = registry.card(name, version)
            except ModelError:
                rows.append({**row, "created_at": "", "simulated": None, "verdict": "damaged"})
                continue
            known = {"created_at": card.created_at, "simulated": card.data["simulated"]}
            rows.append({**row, **known, "verdict": card.verdict})
    cells = [
        [
            r["domain"],
            f"{r['version']}{' *' if r['serving'] else ''}",
            r["created_at"],
            r["verdict"],
        ]
        for r in rows
    ]
    show(rows, as_json, lambda: table("Models", ["domain", "version", "made", "verdict"], cells))


@models_app.command("show")
def models_show(
    domain: DomainName,
    version: Annotated[str | None, typer.Option(help="Which version; the served one")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's card."""
    from rich.markdown import Markdown

    card = registry.card(common.model(domain), version)
    show(card.model_dump(), as_json, lambda: Markdown(registry.page(card)))


@models_app.command("promote")
def models_promote(
    domain: DomainName,
    version: Annotated[str, typer.Argument(help="Version to serve")],
    force: Annotated[bool, typer.Option("--force", help="Although its gate refused it")] = False,
    why: Annotated[str, typer.Option(help="Reason, recorded with who and when")] = "",
) -> None:
    """Serve a version from now on, if it passed its gate; running servers notice."""
    if force != bool(why.strip()):
        raise UsageError("--force and --why REASON go together: the reason is recorded.")
    _say_serving(registry.promote(common.model(domain), version, force=why.strip() or None))


@models_app.command("history")
def models_history(domain: DomainName, as_json: AsJson = False) -> None:
    """List what was served when, who changed it, and why."""
    rows = registry.history(common.model(domain))
    common.show_rows(f"Served: {domain}", ["at", "version", "action", "by", "why"], rows, as_json)


@models_app.command("rollback")
def models_rollback(domain: DomainName) -> None:
    """Serve the version before the current one."""
    _say_serving(registry.rollback(common.model(domain)))


@models_app.command("verify")
def models_verify(
    domain: MaybeDomain = None,
    version: Annotated[str | None, typer.Option(help="Which version; the served one")] = None,
) -> None:
    """Check a version's files against its card, and that it opens."""
    for name in [common.model(domain)] if domain else domains.load_all():
        card = registry.verify(name, version)
        out.print(f"{card.name} {card.version}: all {len(card.files)} files are as published")


def _say_serving(card: Card) -> None:
    out.print(f"{card.name} {card.version} is being served")
