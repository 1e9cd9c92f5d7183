"""An audit as a library call: which seeds of a prompt give the same picture?

python examples/audit_in_python.py
"""

from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.models.loading import load_model
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket.truth_table import load_table
from m2g_audit.similarity import distances, load_metric
from m2g_audit.verdict.attractors import find_attractors

PROMPT = "a print of the old harbour"

pipeline = load_model("pocket")
seeds = [seed_for(0, PROMPT, index) for index in range(16)]
images = pipeline.generate(PROMPT, seeds, batch_size=16).images

metric = load_metric("l2")
embedded = metric.embed(images)
delta_s = load_table().thresholds_for(PROMPT).delta_s
assert delta_s is not None
check = find_attractors(distances(metric, embedded, embedded), delta_s, failed=is_failed(images))

for attractor in check.attractors:
    mass = attractor.mass
    print(
        f"seeds {attractor.members}: mass {mass.estimate:.0%} ({mass.low:.0%} to {mass.high:.0%})"
    )
print(f"an attractor of less mass than {check.undetected_mass:.0%} may have been missed")
