"""
The demo: a simulated A100 in seven slices, seven real Tritons, the gateway, real inferences.

    stack      starts and stops the launcher and the gateway
    traffic    sends flower pictures over HTTP and gRPC
    admin      asks the gateway's admin API
    show       tables and sentences
"""
