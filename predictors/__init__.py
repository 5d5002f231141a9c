"""The predictors by name. Each is a module and a class, imported when it is chosen."""

PREDICTORS = {
    "linear": "predictors.linear:Linear",
    "gaussian-process": "predictors.gaussian_process:GaussianProcess",
}
