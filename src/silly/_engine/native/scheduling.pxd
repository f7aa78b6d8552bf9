from silly._engine.native.reactor cimport Reactor

cdef int catch_first_step(Reactor reactor) except -1
cdef int stop_catching() except -1
