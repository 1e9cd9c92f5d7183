"""`m2g-audit doctor`."""

from m2g_audit.cli.options import Format


def doctor(output_format: Format = "text") -> None:
    """Tell what this machine has for an audit, what is missing, and the command that gets it."""
    import json
    from dataclasses import asdict

    from m2g_audit.cli.options import print_json
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.doctor import diagnose

    with Terminal(stderr=True).status("looking around"):
        found = diagnose()
    if output_format == "json":
        print_json(json.dumps(asdict(found), indent=1))
        return
    from m2g_audit.cli.diagnosis import show

    show(found, Terminal())
