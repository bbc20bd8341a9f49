"""A private gallery behind Keyfront: the demo that `make demo` starts (`python -m examples.gallery`).

It is a small web application of the kind you would put behind CloudFront, and it treats Keyfront as CloudFront: it
calls the control plane with boto3, signs with the SDK, and serves as the origin. Read it in this order:

    pictures.py    the pictures, drawn from numbers
    shelf.py       the files that the origin holds
    provision.py   keys, key groups, and the distribution, created with boto3
    app.py         the application: log in, sign cookies, create links, refuse requests not from the edge
    attempts.py    the requests that the edge refuses, made one by one
    __main__.py    starts `keyfront up`, provisions, serves, and stops everything again
"""
