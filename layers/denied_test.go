package layers

func tryDenied() {}
