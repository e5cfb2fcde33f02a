"""See fir_tf/cli/export.py."""

from fir_tf.cli.export import run

if __name__ == "__main__":
    run()
