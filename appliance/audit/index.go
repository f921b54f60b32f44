package audit

func (l *Log) runIndexer() {}
