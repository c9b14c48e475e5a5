"""A token issuer: RS256, its key set served by nginx."""

import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm


class Issuer:
    def __init__(self):
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def key_set(self):
        key = json.loads(RSAAlgorithm.to_jwk(self.key.public_key()))
        return json.dumps({"keys": [{**key, "kid": "one", "alg": "RS256", "use": "sig"}]})

    def token(self, **claims):
        now = int(time.time())
        good = {"iss": "https://issuer.example.com", "aud": "shop", "sub": "alice"}
        claims = {**good, "iat": now, "exp": now + 600, **claims}
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": "one"})
