"""What every table of the configuration is."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A frozen TOML table that refuses unknown keys, and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
