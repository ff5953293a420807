import keras
import numpy as np

from benchmarks import fm_interaction, tables, training


def main() -> None:
    backend = keras.backend.backend()
    print(f"keras {keras.__version__} on {backend}, numpy {np.__version__}\n")
    fm_interaction.main()
    print()
    tables.main()
    print()
    training.main()


if __name__ == "__main__":
    main()
