"""The promises of the contract, one module for each family, with the checks that test them."""
