"""See fir_tf/cli/evaluate.py."""

from fir_tf.cli.evaluate import run

if __name__ == "__main__":
    run()
