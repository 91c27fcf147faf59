"""Run a plan: cluster, driver, staging and publishing."""
