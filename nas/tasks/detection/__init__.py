"""Object detection: images with boxes, read from files or made; what a network is trained towards; what it is worth.

The objects of an image are rows of seven numbers, so those of all images are one array `[images, objects, 7]` of
float32: the corners of the box, in shares of the side of the square image, x to the right and y down; the class from 0,
or -1 in rows that are no object and fill up the array; 1 where the object is ignored, a crowd or one that is difficult,
which is neither learned nor counted; and how many pixels of the file the side of the square stands for, in all rows of
an image alike, by which sizes in the file are known.
"""

X0, Y0, X1, Y1, CLASS, IGNORED, SIDE = range(7)
COLUMNS = 7
