"""The compiled kernels; everything else about the package is in pyproject.toml."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "kan.kernels._native",  # not a Python module but a library for ctypes (kan/kernels/native.py)
            sources=["kan/kernels/c/attention.c", "kan/kernels/c/linear.c", "kan/kernels/c/pointwise.c"],
            depends=sorted(glob("kan/kernels/c/*.h")),
            extra_compile_args=["-std=gnu11", "-O3", "-fopenmp", "-Wall", "-Wextra"],
            extra_link_args=["-fopenmp"],
            libraries=["m"],
            optional=True,  # without a C compiler torch computes instead
        )
    ]
)
