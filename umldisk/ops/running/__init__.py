"""The life of a guest: started, waited for, looked at, stopped, reset."""
