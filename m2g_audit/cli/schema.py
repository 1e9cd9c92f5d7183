"""`m2g-audit schema`."""


def schema() -> None:
    """Print the JSON schema of the record that an audit writes."""
    import json

    from m2g_audit.cli.options import print_json
    from m2g_audit.records import json_schema

    print_json(json.dumps(json_schema(), indent=2))
