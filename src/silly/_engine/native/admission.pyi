from silly._engine.admission import Admission as Admission
