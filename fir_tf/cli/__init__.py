"""The scripts: flags -> one config object -> one library call."""

from fir_tf.interrupt import end_quietly

end_quietly()
