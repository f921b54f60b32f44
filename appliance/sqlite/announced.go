package sqlite

import (
	"sync"

	"holdfast/appliance"
)

// announcements say how far the log of changes is taken over and announced. A change is
// announced by whoever made it, in any order, so the position is that of the last one
// before which all are.
type announcements struct {
	mu      sync.Mutex
	reached appliance.Position
	open    []*openChange // in the order of their numbers, the first one not announced
}

// openChange is a change that is durable here, and not announced yet.
type openChange struct {
	position appliance.Position
	waiting  int // how many have to announce it
	changes  []appliance.Change
}

// begin starts at a position.
func (p *announcements) begin(at appliance.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reached, p.open = at, nil
}

// add takes note of a change that so many have to announce, before anybody can.
func (p *announcements) add(at appliance.Position, waiting int, changes []appliance.Change) *openChange {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &openChange{position: at, waiting: waiting, changes: changes}
	p.open = append(p.open, c)
	p.settle()
	return c
}

// done says that one of them has.
func (p *announcements) done(c *openChange) {
	if c == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.waiting--
	p.settle()
}

func (p *announcements) settle() {
	for len(p.open) > 0 && p.open[0].waiting <= 0 {
		p.reached = p.open[0].position
		p.open = p.open[1:]
	}
}

// announcement is what one caller has to announce of a change of another node.
type announcement struct {
	open    *openChange
	changes []appliance.Change
}

// foreign gives the changes of other nodes that nobody announces yet, to one caller.
func (p *announcements) foreign() (list []announcement) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		if c.changes != nil {
			list = append(list, announcement{c, c.changes})
			c.changes = nil
		}
	}
	return list
}

func (p *announcements) position() appliance.Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reached
}

// written gives the number of the last change that is durable.
func (p *announcements) written() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) > 0 {
		return p.open[len(p.open)-1].position.Number
	}
	return p.reached.Number
}
