"""Training and forecasting: LightGBM on Feast features, beside naive baselines."""
