//! What operators are told about their YAML: codes, places, rendering.
