"""See fir_tf/cli/train.py."""

from fir_tf.cli.train import run

if __name__ == "__main__":
    run()
