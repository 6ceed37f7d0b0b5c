"""What the head of a finished run says of any video, every so many seconds.

trained     RUN -> its head, and how the features that it was trained on were made
moments     a video's length -> the times to say something at, each with a window that ends there
asked       the questions that go with the video
alike       the spec of a store -> the settings that make such features again
making      moments -> stores of features of this video, made alike
features    the rows of a store that moments are, new ones or old; what the head reads of them
answers     features -> scores -> the best classes of every target
predict     all of it in one call; the JSON that comes out
picture     the same as a picture, beside frames of the video
"""
