"""`fine-tune …`: what people type beside Dagster's own commands; one module for each command or group of them."""
