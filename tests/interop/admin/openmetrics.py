"""Reads OpenMetrics from standard input, strictly, and prints its samples as JSON: [[name, labels, value], ...]."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

samples = []
for family in text_string_to_metric_families(sys.stdin.read()):
    if not family.documentation:
        sys.exit(f"{family.name} has no help text")
    if family.unit and not family.name.endswith("_" + family.unit):
        sys.exit(f"{family.name} does not end with its unit, {family.unit}")
    samples += [[sample.name, sample.labels, sample.value] for sample in family.samples]
json.dump(samples, sys.stdout)
