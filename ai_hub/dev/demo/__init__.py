"""The whole product on sample meters: `ai-hub demo`."""
