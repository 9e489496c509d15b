"""Settings of the sandbox that untrusted programs run in.

Data only. The configuration's `[rewards.sandbox]` is this table.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["namespaces", "bubblewrap", "weak"]


class SandboxSettings(BaseModel):
    """Which sandbox, and how much a program may use in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["auto", "namespaces", "bubblewrap", "weak"] = Field(
        default="auto",
        description="What isolates a program: bubblewrap, or namespaces that Sparring makes "
        "itself; auto takes one that works here. weak leaves your files and processes open to it "
        "(`docs/limits.md`), and is never chosen for you.",
    )
    memory_mb: int = Field(
        default=512,
        ge=64,
        description="The most memory of a program, in MiB of address space.",
    )
    tmp_mb: int = Field(
        default=16,
        ge=1,
        description="The size of a program's private /tmp, in MiB; it is gone with the program.",
    )
    output_kb: int = Field(
        default=1024,
        ge=1,
        description="A program that prints more KiB than this, or writes more errors, is stopped, "
        "and fails.",
    )
    threads: int = Field(
        default=32,
        ge=1,
        description="The most threads of a program; it can start no other process at all.",
    )
