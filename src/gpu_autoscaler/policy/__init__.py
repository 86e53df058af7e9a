"""The decision: one pure function, `plan.plan`, and one module per rule."""
