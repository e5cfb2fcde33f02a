"""See fir_tf/cli/search.py."""

from fir_tf.cli.search import run

if __name__ == "__main__":
    run()
