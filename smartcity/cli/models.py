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
    for each in common.chosen(domain):
        try:
            serving = registry.current(each.name)
        except ModelError as error:
            serving = ""
            if registry.versions(each.name):
                err.print(str(error), highlight=False, markup=False)
        for version in registry.versions(each.name):
            row = {"domain": each.name, "version": version, "serving": version == serving}
            try:
                card = registry.card(each.name, version)
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

    card = registry.card(domains.load(domain).name, version)
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
    name = domains.load(domain).name
    _say_serving(registry.promote(name, version, force=why.strip() or None))


@models_app.command("history")
def models_history(domain: DomainName, as_json: AsJson = False) -> None:
    """List what was served when, who changed it, and why."""
    rows = registry.history(domains.load(domain).name)
    common.show_rows(f"Served: {domain}", ["at", "version", "action", "by", "why"], rows, as_json)


@models_app.command("rollback")
def models_rollback(domain: DomainName) -> None:
    """Serve the version before the current one."""
    _say_serving(registry.rollback(domains.load(domain).name))


@models_app.command("verify")
def models_verify(
    domain: MaybeDomain = None,
    version: Annotated[str | None, typer.Option(help="Which version; the served one")] = None,
) -> None:
    """Check a version's files against its card, and that it opens."""
    for each in common.chosen(domain):
        card = registry.verify(each.name, version)
        out.print(f"{card.domain} {card.version}: all {len(card.files)} files are as published")


def _say_serving(card: Card) -> None:
    out.print(f"{card.domain} {card.version} is being served")
