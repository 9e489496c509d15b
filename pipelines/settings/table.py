"""What every table of the configuration is."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A frozen TOML table that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
