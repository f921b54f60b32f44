package identity

// HashCheaply has passwords hashed in no time and hardly any memory, for tests that are about something
// else; the argument false, as they are in service.
func (d *Directory) HashCheaply(cheap bool) {
	if d.cost = recommended; cheap {
		d.cost = cost{time: 1, memory: 64, threads: 1}
	}
}
