"""Packaging of hicmae: the code under `hicmae/`, and the recipe-and-card folders as data of the wheel."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
CARD_FOLDERS = ("models", "pretrain", "finetune", "datasets", "configs")
SHARED = {f"hicmae.share.{name}": name for name in CARD_FOLDERS}

# The three torch minors belong together: torchaudio 2.11 is the last release and does not itself require torch.
REQUIRES = [
    "torch>=2.11,<2.12",
    "torchaudio>=2.11,<2.12",
    "torchvision>=0.26,<0.27",
    "timm>=1.0.20,<1.1",
    "einops>=0.8",
    "numpy>=1.26",
    "av>=17,<20",
    "webdataset>=1.0.2,<2",
    "tensorboard>=2.17",
    "torchmetrics>=1.5,<2",
    "fvcore>=0.1.5.post20221221",
    "safetensors>=0.5",
    "huggingface_hub>=0.30",
    "httpx>=0.27,<1",
    "filelock>=3.13",
    "jsonargparse[signatures]>=4.49,<5",
    "pyyaml>=6",
    "tqdm>=4.66",
    "pillow>=9",
    "matplotlib>=3.8",
]
EXTRAS = {
    "deepspeed": ["deepspeed>=0.19,<0.20"],
    "ray": ["ray>=2.40"],
    "remote": ["s3fs>=2024.2", "fsspec>=2024.2"],
    "report": ["scikit-learn>=1.4"],
    "face": ["mtcnn==1.0.0"],
    "predict": ["pandas>=2"],
    "lora": ["peft>=0.15,<1"],
    "wandb": ["wandb>=0.19"],
    "parquet": ["pyarrow>=15"],
    "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
    "demo": ["starlette>=0.40", "uvicorn>=0.30"],
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1,<2"],
    "dev": [
        "playwright>=1.45",
        "transformers>=5,<6",
        "peft>=0.15,<1",
        "pandas>=2",
        "pyarrow>=15",
        "onnx>=1.17",
        "onnxscript>=0.5",
        "onnxruntime>=1.20",
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "scikit-learn>=1.4",
        "mtcnn==1.0.0",
        "scikit-image>=0.22",
        "deepspeed>=0.19,<0.20",
        "mkdocs>=1.6,<2",
        "mkdocs-material>=9.6,<10",
        "mkdocstrings[python]>=1,<2",
        "ruff>=0.8",
        "mypy>=1.13",
        "types-PyYAML",
        "starlette>=0.40",
        "uvicorn>=0.30",
        "types-tqdm",
    ],
}

setup(
    name="hicmae",
    version="0.1.0.dev0",
    description="Self-supervised audio-visual pretraining and emotion recognition: MAE-DFER, SVFAP and HiCMAE",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.15",
    packages=[*find_packages(include=["hicmae", "hicmae.*"]), *SHARED],
    package_dir=SHARED,
    package_data={
        "hicmae": ["py.typed", "inference/serving/web/*"],
        **{package: ["*.yaml", "*.md", "*.sh", "*.json"] for package in SHARED},
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["hicmae = hicmae.cli:entry"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
