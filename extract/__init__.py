"""Stage one: frozen encoders over a data set, their features written to a store that stage two trains on.

`annotations` says what the segments are, `questions` asks about them, `sampling`, `video` and `sound` find
what a segment shows, `encoders` holds the models. `video_job`, `audio_job` and `text_job` put these together,
each with its settings in `options`; `job` is what they share: row groups that are read, encoded and
committed, so that a killed run resumes where it stopped.
"""

MASK = "<mask>"  # hides an answer in a question; each text encoder puts its own mask token there
